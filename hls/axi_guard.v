// Stands between the core and the AXI4 bus and knows what each owes the other, so that the core
// can be reset at any moment without breaking the bus.
//
// While `stop` is high nothing of the core's passes: no address goes out, write bursts whose
// address is out are completed with beats that write nothing (strobe 0), read data and write
// responses that are owed are taken and dropped. `quiet` tells that nothing is owed either way.
// Failures are reported as they arrive, before the core can see them.
//
// Streams are packed as in the kernels:
//   ar, aw  {address[63:0], length[7:0]}     length: beats less one
//   r       {data, response[1:0], last}
//   w       {data, strobe, last}
//   b       response[1:0]
module axi_guard #(
  parameter BUS_BITS = 64,
  parameter BURSTS_LOG2 = 4  // bursts that may be under way in each direction, as a power of two
) (
  input wire clk,
  input wire rst,
  input wire stop,
  output wire quiet,
  output wire read_failed,
  output wire write_failed,

  input wire [71:0] core_ar_data,
  input wire core_ar_vld,
  output wire core_ar_rdy,
  output wire [BUS_BITS+2:0] core_r_data,
  output wire core_r_vld,
  input wire core_r_rdy,
  input wire [71:0] core_aw_data,
  input wire core_aw_vld,
  output wire core_aw_rdy,
  input wire [BUS_BITS+BUS_BITS/8:0] core_w_data,
  input wire core_w_vld,
  output wire core_w_rdy,
  output wire [1:0] core_b_data,
  output wire core_b_vld,
  input wire core_b_rdy,

  output wire [71:0] bus_ar_data,
  output wire bus_ar_vld,
  input wire bus_ar_rdy,
  input wire [BUS_BITS+2:0] bus_r_data,
  input wire bus_r_vld,
  output wire bus_r_rdy,
  output wire [71:0] bus_aw_data,
  output wire bus_aw_vld,
  input wire bus_aw_rdy,
  output wire [BUS_BITS+BUS_BITS/8:0] bus_w_data,
  output wire bus_w_vld,
  input wire bus_w_rdy,
  input wire [1:0] bus_b_data,
  input wire bus_b_vld,
  output wire bus_b_rdy
);
  localparam STROBE_BITS = BUS_BITS / 8;
  localparam BURSTS = 1 << BURSTS_LOG2;

  // Bursts whose address has left the core and whose last read beat or response has not arrived.
  reg [BURSTS_LOG2:0] reads;
  reg [BURSTS_LOG2:0] writes;

  assign quiet = reads == 0 && writes == 0;
  assign read_failed = bus_r_vld && bus_r_rdy && bus_r_data[2];
  assign write_failed = bus_b_vld && bus_b_rdy && bus_b_data[1];

  // Reads.
  wire ar_open = !stop && reads != BURSTS;
  wire ar_free;
  wire ar_enters = core_ar_vld && core_ar_rdy;
  assign core_ar_rdy = ar_open && ar_free;
  axi_slice #(.WIDTH(72)) ar_slice (
    .clk(clk), .rst(rst),
    .in_data(core_ar_data), .in_vld(core_ar_vld && ar_open), .in_rdy(ar_free),
    .out_data(bus_ar_data), .out_vld(bus_ar_vld), .out_rdy(bus_ar_rdy)
  );

  wire r_vld;
  wire r_taken = r_vld && (stop || core_r_rdy);
  wire read_ends = r_taken && core_r_data[0];
  assign core_r_vld = r_vld && !stop;
  axi_slice #(.WIDTH(BUS_BITS + 3)) r_slice (
    .clk(clk), .rst(rst),
    .in_data(bus_r_data), .in_vld(bus_r_vld), .in_rdy(bus_r_rdy),
    .out_data(core_r_data), .out_vld(r_vld), .out_rdy(stop || core_r_rdy)
  );

  // Writes. The lengths of bursts whose data is owed wait in a ring.
  reg [7:0] lengths [0:BURSTS-1];
  reg [BURSTS_LOG2-1:0] newest;
  reg [BURSTS_LOG2-1:0] oldest;
  reg [BURSTS_LOG2:0] owed;
  reg [7:0] beat;  // of the oldest burst

  wire aw_open = !stop && writes != BURSTS;
  wire aw_free;
  wire aw_enters = core_aw_vld && core_aw_rdy;
  assign core_aw_rdy = aw_open && aw_free;
  axi_slice #(.WIDTH(72)) aw_slice (
    .clk(clk), .rst(rst),
    .in_data(core_aw_data), .in_vld(core_aw_vld && aw_open), .in_rdy(aw_free),
    .out_data(bus_aw_data), .out_vld(bus_aw_vld), .out_rdy(bus_aw_rdy)
  );

  wire w_open = owed != 0;
  wire w_free;
  wire w_last = beat == lengths[oldest];
  wire w_enters = w_open && w_free && (stop || core_w_vld);
  wire burst_ends = w_enters && w_last;
  wire [STROBE_BITS-1:0] w_strobe = stop ? {STROBE_BITS{1'b0}} : core_w_data[STROBE_BITS:1];
  assign core_w_rdy = w_open && w_free && !stop;
  axi_slice #(.WIDTH(BUS_BITS + STROBE_BITS + 1)) w_slice (
    .clk(clk), .rst(rst),
    .in_data({core_w_data[BUS_BITS+STROBE_BITS:STROBE_BITS+1], w_strobe, w_last}),
    .in_vld(w_open && (stop || core_w_vld)), .in_rdy(w_free),
    .out_data(bus_w_data), .out_vld(bus_w_vld), .out_rdy(bus_w_rdy)
  );

  wire b_vld;
  wire write_ends = b_vld && (stop || core_b_rdy);
  assign core_b_vld = b_vld && !stop;
  axi_slice #(.WIDTH(2)) b_slice (
    .clk(clk), .rst(rst),
    .in_data(bus_b_data), .in_vld(bus_b_vld), .in_rdy(bus_b_rdy),
    .out_data(core_b_data), .out_vld(b_vld), .out_rdy(stop || core_b_rdy)
  );

  always @(posedge clk) begin
    reads <= reads + ar_enters - read_ends;
    writes <= writes + aw_enters - write_ends;
    owed <= owed + aw_enters - burst_ends;
    if (aw_enters) begin
      lengths[newest] <= core_aw_data[7:0];
      newest <= newest + 1'b1;
    end
    if (w_enters) beat <= w_last ? 8'd0 : beat + 1'b1;
    if (burst_ends) oldest <= oldest + 1'b1;
    if (rst) begin
      reads <= 0;
      writes <= 0;
      owed <= 0;
      newest <= 0;
      oldest <= 0;
      beat <= 0;
    end
  end
endmodule
